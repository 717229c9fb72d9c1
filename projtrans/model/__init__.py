"""The network and its mathematics. Imports only the ground; never text."""
