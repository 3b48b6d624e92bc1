-- Which program wrote this state, so that an older one can name the version that it needs.
ALTER TABLE schema_version ADD COLUMN program TEXT;

-- When the deployed commit was made, for its age; unknown for what was deployed before.
ALTER TABLE targets ADD COLUMN deployed_commit_at TEXT;

-- Since when a server has refused us: after a while, what we have of it is removed.
ALTER TABLE sources ADD COLUMN revoked_since TEXT;
