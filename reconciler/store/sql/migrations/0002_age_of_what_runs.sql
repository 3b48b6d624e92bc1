-- When the deployed commit was made, for its age; unknown for what was deployed before.
ALTER TABLE targets ADD COLUMN deployed_commit_at TEXT;
