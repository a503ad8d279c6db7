"""A fleet: its resources, its launches, its roster. Decides; the ports it is given do."""
