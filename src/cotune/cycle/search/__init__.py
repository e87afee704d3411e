"""The search by label words and written answers: loop, races, plan and arms."""
