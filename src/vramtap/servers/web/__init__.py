"""The web server: the page, its API, and RFB over WebSocket."""
