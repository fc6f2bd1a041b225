"""Before any trial: the data is read and the model is sized up."""
