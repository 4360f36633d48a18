"""Prompts on disk: KV caches that outlive the session that computed them."""
