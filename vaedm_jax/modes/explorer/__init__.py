"""Parts of mode `explore`: what the page shows, as plain values, and the page itself."""
