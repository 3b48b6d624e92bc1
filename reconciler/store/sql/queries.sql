-- name: config_head
SELECT commit_id, loaded_at, problems FROM config_head WHERE id = 1;

-- name: save_config_head
INSERT INTO config_head (id, commit_id, loaded_at, problems) VALUES (1, :commit_id, :loaded_at, :problems)
ON CONFLICT (id) DO UPDATE SET
    commit_id = excluded.commit_id, loaded_at = excluded.loaded_at, problems = excluded.problems;

-- name: entries
SELECT name, file, line, col, spec, config_commit, problems, vanished_in FROM entries ORDER BY name;

-- name: save_entry
INSERT INTO entries (name, file, line, col, spec, config_commit, problems, vanished_in)
VALUES (:name, :file, :line, :col, :spec, :config_commit, :problems, :vanished_in)
ON CONFLICT (name) DO UPDATE SET
    file = excluded.file, line = excluded.line, col = excluded.col, spec = excluded.spec,
    config_commit = excluded.config_commit, problems = excluded.problems, vanished_in = excluded.vanished_in;

-- name: forget_entry
DELETE FROM entries WHERE name = :name;

-- name: sources
SELECT url, interval_s, last_poll, last_good_poll, failures, reason, message, next_poll, revoked_since
FROM sources ORDER BY url;

-- name: save_source
INSERT INTO sources (url, interval_s, last_poll, last_good_poll, failures, reason, message, next_poll, revoked_since)
VALUES (:url, :interval_s, :last_poll, :last_good_poll, :failures, :reason, :message, :next_poll, :revoked_since)
ON CONFLICT (url) DO UPDATE SET
    interval_s = excluded.interval_s, last_poll = excluded.last_poll, last_good_poll = excluded.last_good_poll,
    failures = excluded.failures, reason = excluded.reason, message = excluded.message,
    next_poll = excluded.next_poll, revoked_since = excluded.revoked_since;

-- name: forget_source
DELETE FROM sources WHERE url = :url;

-- name: observe
SELECT
    t.name, t.generation, t.desired_commit, t.desired_digest, t.desired_revision, t.desired_since,
    t.problem_reason, t.problem_message, t.behind,
    t.attempted_commit, t.attempted_digest, t.attempted_status, t.attempted_reason, t.attempted_at, t.failures,
    t.deployed_commit, t.deployed_digest, t.deployed_at, t.deployed_commit_at, t.rollback_status, t.drift,
    t.request_token, t.request_by, t.request_now, t.request_env, t.handled_token,
    t.suspended_reason, t.suspended_by, t.suspended_until,
    d.id AS live_id, d.commit_id AS live_commit, d.digest AS live_digest,
    d.created_at AS live_since, d.deadline AS live_deadline, d.cancelled_by AS live_cancelled_by
FROM targets AS t
LEFT JOIN deploys AS d ON d.target = t.name AND d.status IN ('pending', 'running')
ORDER BY t.name;

-- name: declare_target
INSERT INTO targets (name) VALUES (:name) ON CONFLICT (name) DO NOTHING;

-- name: save_desired
UPDATE targets SET
    generation = generation + CASE
        WHEN desired_commit IS NOT :commit_id OR desired_digest IS NOT :digest THEN 1 ELSE 0 END,
    desired_since = CASE
        WHEN desired_commit IS NOT :commit_id OR desired_digest IS NOT :digest THEN :now ELSE desired_since END,
    desired_commit = :commit_id, desired_digest = :digest, desired_revision = :revision,
    problem_reason = :problem_reason, problem_message = :problem_message, behind = :behind
WHERE name = :name;

-- name: claim
INSERT INTO leases (target, fence, holder, expires_at) VALUES (:target, 1, :holder, :expires_at)
ON CONFLICT (target) DO UPDATE SET
    fence = leases.fence + 1, holder = excluded.holder, expires_at = excluded.expires_at
WHERE leases.holder IS NULL OR leases.expires_at < :now
RETURNING fence;

-- name: take_over
UPDATE leases SET fence = fence + 1, holder = :holder, expires_at = :expires_at
WHERE target = :target AND fence = :fence
RETURNING fence;

-- name: renew
UPDATE leases SET expires_at = :expires_at WHERE target = :target AND fence = :fence AND holder = :holder;

-- name: release
UPDATE leases SET holder = NULL, expires_at = NULL
WHERE target = :target AND fence = :fence AND holder = :holder;

-- name: holds
SELECT 1 FROM leases WHERE target = :target AND fence = :fence AND holder = :holder;

-- name: insert_deploy
INSERT INTO deploys (
    id, target, fence, generation, commit_id, digest, spec, cause, message, requested_by, previous_commit,
    status, created_at, deadline
)
SELECT
    :id, :target, :fence, t.generation, :commit_id, :digest, :spec, :cause, :message, :requested_by,
    t.deployed_commit, 'pending', :now, :deadline
FROM targets AS t WHERE t.name = :target;

-- name: handle_request
UPDATE targets SET handled_token = request_token, request_env = NULL WHERE name = :target AND request_token = :token;

-- name: start_deploy
UPDATE deploys SET status = 'running', started_at = :now
WHERE id = :id AND status = 'pending' AND EXISTS (
    SELECT 1 FROM leases WHERE target = :target AND fence = :fence AND holder = :holder
);

-- name: finish_deploy
UPDATE deploys SET
    status = :status, finished_at = :now, reason = :reason, outcome = :outcome, exit_code = :exit_code,
    steps = :steps, output_bytes = :output_bytes, output_omitted_bytes = :output_omitted_bytes
WHERE id = :id AND ((status = 'pending' AND :from_pending = 1) OR (status = 'running' AND :from_running = 1))
AND EXISTS (SELECT 1 FROM leases WHERE target = :target AND fence = :fence AND holder = :holder);

-- name: record_attempt
UPDATE targets SET
    failures = CASE
        WHEN :status = 'succeeded' THEN 0
        WHEN attempted_commit IS NOT :commit_id OR attempted_digest IS NOT :digest THEN :failed
        ELSE failures + :failed + CASE WHEN :status = 'abandoned' AND attempted_status = 'abandoned' THEN 1 ELSE 0 END
    END,
    attempted_commit = :commit_id, attempted_digest = :digest, attempted_status = :status,
    attempted_reason = :reason, attempted_at = :now, rollback_status = NULL
WHERE name = :target;

-- name: record_deployed
UPDATE targets SET
    deployed_commit = :commit_id, deployed_digest = :digest, deployed_at = :now, deployed_deploy = :id, drift = NULL,
    deployed_commit_at = :made_at,
    deployed_generation = (SELECT generation FROM deploys WHERE id = :id)
WHERE name = :target;

-- name: record_drift
UPDATE targets SET drift = :drift
WHERE name = :name AND deployed_commit = :commit_id AND deployed_at = :deployed_at AND NOT EXISTS (
    SELECT 1 FROM deploys WHERE target = :name AND status IN ('pending', 'running')
);

-- name: record_rollback
UPDATE targets SET rollback_status = :status WHERE name = :target;

-- name: request
UPDATE targets SET
    generation = generation + 1, request_token = :token, request_by = :requested_by, request_now = :now_flag,
    request_env = :env
WHERE name = :name;

-- name: cancel
UPDATE deploys SET cancelled_by = :by WHERE target = :target AND status IN ('pending', 'running');

-- name: suspend
UPDATE targets SET suspended_reason = :reason, suspended_by = :by, suspended_until = :until WHERE name = :name;

-- name: resume
UPDATE targets SET suspended_reason = NULL, suspended_by = NULL, suspended_until = NULL WHERE name = :name;

-- name: live_deploys
SELECT * FROM deploys WHERE status IN ('pending', 'running') ORDER BY target;

-- name: lease
SELECT target, fence, holder FROM leases WHERE target = :target;

-- name: deploy
SELECT * FROM deploys WHERE id = :id;

-- name: history
SELECT * FROM deploys WHERE target = :target AND fence < COALESCE(:before, 9223372036854775807)
ORDER BY fence DESC LIMIT :limit;

-- name: last_deploys
SELECT d.* FROM deploys AS d
JOIN (SELECT target, MAX(fence) AS fence FROM deploys GROUP BY target) AS newest
    ON d.target = newest.target AND d.fence = newest.fence;

-- name: spec_of
SELECT spec FROM deploys
WHERE target = :target AND commit_id = :commit_id AND digest = :digest AND status = 'succeeded'
ORDER BY fence DESC LIMIT 1;

-- name: outcomes
SELECT target, status, COUNT(*) AS count FROM deploys GROUP BY target, status;

-- name: commits
SELECT commit_id FROM deploys
UNION SELECT desired_commit FROM targets WHERE desired_commit IS NOT NULL
UNION SELECT commit_id FROM config_head;

-- name: prunable
SELECT id FROM (
    SELECT id, status, finished_at, ROW_NUMBER() OVER (PARTITION BY target ORDER BY fence DESC) AS age
    FROM deploys
) AS aged
WHERE status NOT IN ('pending', 'running') AND age > 1 AND (age > :keep OR finished_at < :before)
AND id NOT IN (SELECT deployed_deploy FROM targets WHERE deployed_deploy IS NOT NULL);

-- name: forget_deploy
DELETE FROM deploys WHERE id = :id AND status NOT IN ('pending', 'running');

-- name: failing_since
SELECT MIN(finished_at) AS since FROM deploys
WHERE target = :target AND status IN ('failed', 'timed_out') AND fence < :fence AND fence > COALESCE(
    (SELECT MAX(fence) FROM deploys WHERE target = :target AND status = 'succeeded' AND fence < :fence), 0
);
