-- What the daemon remembers. Times are RFC 3339 texts in UTC of one width, so that they sort as they read.

CREATE TABLE schema_version (version INTEGER NOT NULL);

-- The config commit that is in force.
CREATE TABLE config_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    commit_id TEXT NOT NULL,
    loaded_at TEXT NOT NULL,
    problems TEXT NOT NULL -- a JSON list of lines
);

-- The last good entry of every name, and what is wrong with the present one.
CREATE TABLE entries (
    name TEXT PRIMARY KEY,
    file TEXT NOT NULL,
    line INTEGER NOT NULL,
    col INTEGER NOT NULL,
    spec TEXT, -- JSON; null where there never was a good one
    config_commit TEXT NOT NULL,
    problems TEXT NOT NULL, -- a JSON list of lines
    vanished_in TEXT
);

-- What polls found out.
CREATE TABLE sources (
    url TEXT PRIMARY KEY,
    interval_s REAL NOT NULL,
    last_poll TEXT,
    last_good_poll TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    message TEXT NOT NULL DEFAULT '',
    next_poll TEXT
);

-- Desired and observed, one row a target. Every wish (a new version, a request) bumps `generation`.
CREATE TABLE targets (
    name TEXT PRIMARY KEY,
    generation INTEGER NOT NULL DEFAULT 0,
    deployed_generation INTEGER NOT NULL DEFAULT 0,
    desired_commit TEXT,
    desired_digest TEXT,
    desired_revision TEXT NOT NULL DEFAULT '',
    desired_since TEXT,
    problem_reason TEXT,
    problem_message TEXT,
    behind INTEGER,
    attempted_commit TEXT,
    attempted_digest TEXT,
    attempted_status TEXT,
    attempted_reason TEXT,
    attempted_at TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    deployed_commit TEXT,
    deployed_digest TEXT,
    deployed_at TEXT,
    deployed_deploy TEXT,
    rollback_status TEXT,
    drift TEXT,
    request_token TEXT,
    request_by TEXT,
    request_now INTEGER NOT NULL DEFAULT 0,
    request_env TEXT,
    handled_token TEXT,
    suspended_reason TEXT,
    suspended_by TEXT,
    suspended_until TEXT
);

-- Who may work on a target now. Rows are never deleted: the fence only ever rises.
CREATE TABLE leases (
    target TEXT PRIMARY KEY,
    fence INTEGER NOT NULL,
    holder TEXT, -- null while nobody works on it
    expires_at TEXT
);

CREATE TABLE deploys (
    id TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    fence INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    commit_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    spec TEXT NOT NULL, -- JSON: what exactly was run
    cause TEXT NOT NULL,
    message TEXT NOT NULL,
    requested_by TEXT,
    previous_commit TEXT,
    status TEXT NOT NULL CHECK (
        status IN ('pending', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled', 'abandoned')
    ),
    created_at TEXT NOT NULL,
    deadline TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    cancelled_by TEXT, -- who asked for its end while it was live
    reason TEXT,
    outcome TEXT NOT NULL DEFAULT '',
    exit_code INTEGER,
    steps TEXT NOT NULL DEFAULT '[]', -- JSON
    output_bytes INTEGER NOT NULL DEFAULT 0,
    output_omitted_bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (target, fence)
);

-- G1: at most one live deploy a target, whatever the code above does.
CREATE UNIQUE INDEX one_live_deploy_a_target ON deploys (target) WHERE status IN ('pending', 'running');
CREATE INDEX deploys_by_age ON deploys (target, created_at);
