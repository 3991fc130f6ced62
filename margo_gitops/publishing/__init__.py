"""The state repo as static files: what any web server, CDN or bucket can hand to any number of devices."""
