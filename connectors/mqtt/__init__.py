"""MQTT 3.1.1 and 5: a client of our own, without I/O at its core.

    edge ── topics as sources (intake) and targets (outlet); place ── where they are
    config ── what a URL says
    connection ── asyncio: TCP, TLS, WebSocket (transport, websocket)
        session ── the protocol's state: what may be sent, what has come; no I/O, no clock
            decoder, encoder ── bytes to packets and back (packets, properties, wire, reasons)
    inflight, outbox ── which packet ids are under way, in and out: exactly once (pure too)

Why it isn't a library: ARCHITECTURE.md, "MQTT".
"""
