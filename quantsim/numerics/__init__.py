"""Float32 arithmetic that means the same under every compiler: IEEE operations, and stages that are not fused."""
