"""The console command `nas`."""
