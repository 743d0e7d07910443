"""SMAUG (ICCV 2023): the model, its data, training and evaluation. Never imports ray, mlflow or pandas."""
