"""What the subcommands of aeot do."""
