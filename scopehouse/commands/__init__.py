"""One module a group of commands; each has `mount(app)`. Imports of heavy libraries stay inside the commands."""
