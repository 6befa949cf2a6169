"""What the command `labutils` does, a module a command. No notebook and no other module of the package imports it."""
