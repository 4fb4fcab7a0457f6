"""Fleets without MQTT: the same core, engines and training as over a broker."""
