"""The scheduler: what runs next, and what is done about failures."""
