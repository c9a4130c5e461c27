"""What the IGRIS robots share: their files, topics, cameras, and a simulated body behind the same topics."""
