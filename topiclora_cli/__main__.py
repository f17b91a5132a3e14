"""`python -m topiclora_cli` is `topiclora`."""

from topiclora_cli.cli.app import main

if __name__ == "__main__":
    main()
