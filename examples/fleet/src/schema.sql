-- Two concurrent `CREATE … IF NOT EXISTS` can collide.
SELECT pg_advisory_xact_lock(hashtext('fleet'));

CREATE TABLE IF NOT EXISTS fleet_jobs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    image        text NOT NULL, -- a URL, or a path that is the same on all machines
    prompt       text NOT NULL,
    state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed')),
    claims       bigint NOT NULL DEFAULT 0,            -- the newest one has the lease
    leased_until timestamptz NOT NULL DEFAULT now(),   -- until then, no other worker claims it
    worker       text,                                 -- for people
    video        text,                                 -- the path of the whole video
    error        text,                                 -- why the last attempt has ended
    UNIQUE (image, prompt),                            -- a repeated submit adds nothing
    CHECK ((state = 'done') = (video IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS fleet_jobs_open ON fleet_jobs (id) WHERE state = 'open';

CREATE TABLE IF NOT EXISTS fleet_journal (
    job      bigint NOT NULL REFERENCES fleet_jobs,
    position bigint NOT NULL,
    entry    json NOT NULL,
    PRIMARY KEY (job, position) -- of two workers with the same job, only one gets to pay
);
