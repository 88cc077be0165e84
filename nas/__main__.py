"""`python -m nas` is the console command `nas`, but leaves PATH as it is."""

from nas.commands.main import app

app(prog_name="nas")
