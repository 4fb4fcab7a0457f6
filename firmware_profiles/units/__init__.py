"""systemd units and drop-ins, as files: espalier-device.service for a board, espalier-gateway.service for a gateway."""
