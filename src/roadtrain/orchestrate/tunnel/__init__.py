"""A coordinator that nobody can dial, reached through somebody else's servers: ngrok's, or Cloudflare's.

The coordinator's own TLS goes through from end to end, so they see no more than bytes. ngrok carries TCP, and its address is one
among others on the ticket. Cloudflare's carries HTTP: there a WebSocket carries the TLS, and the address is wss://HOST.
"""
