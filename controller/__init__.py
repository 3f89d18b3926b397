"""Control plane: plans attempts, hears telemetry, decides rates, answers status queries. Never imports torch."""
