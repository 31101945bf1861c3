"""`python -m auffusion_cli`, which is what `accelerate launch -m auffusion_cli train …` runs."""

from auffusion_cli.cli.app import main

main()
