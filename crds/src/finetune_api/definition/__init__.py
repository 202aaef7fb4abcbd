"""The CustomResourceDefinition, the JSON Schema for editors, and a status that fits them."""
