"""The paper's tables, with published and measured numbers side by side; reads MLflow only."""
