"""The page of `report -o`: one HTML file with its data, style and scripts in it."""
