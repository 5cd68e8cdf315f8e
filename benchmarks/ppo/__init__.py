"""PPO against trl 1.12's PPOTrainer: same models, prompts and work, each in a process of its own."""
