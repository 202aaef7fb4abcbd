"""Value types of fields: durations, money, quantities, locations, paths, JSON Schemas, and how models read them."""
