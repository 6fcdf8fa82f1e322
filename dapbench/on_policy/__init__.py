"""On-policy learning: environments, rollouts, advantages, compiled updates and the base of every method."""
