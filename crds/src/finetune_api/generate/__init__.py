"""What is made from the models: the CustomResourceDefinition, schemas, enums, and tables in the docs.

`python -m finetune_api.generate` writes it; with `--check` it only compares, and fails where a file is out of date.
"""

from finetune_api.generate.files import generated_files, generated_sections

__all__ = ["generated_files", "generated_sections"]
