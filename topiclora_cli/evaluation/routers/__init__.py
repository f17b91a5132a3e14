"""What routers did, by layer and topic, and what a model loses where they are interfered with."""
