"""What a person writes: profiles, tasks, recipes and the places of what they make."""
