"""Plain scripts that show how the functions are used; tests run them, and the pages show them."""
