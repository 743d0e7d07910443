"""Status, logs, garbage collection and checks of a home folder."""
