"""What runs on the board: wire contract, agent, training engines, metering and their shell."""
