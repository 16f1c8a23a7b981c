"""What can be read of the models and the rules: schemas, an AsyncAPI document, two pages."""
