"""`python -m finetune_cli`: the same as `finetune`."""

from finetune_cli.main import main

if __name__ == "__main__":
    main()
