"""Names to pretrained networks; knows nothing of tasks."""
