"""A page that runs a packaged student in a browser, with nothing but the files beside it."""
