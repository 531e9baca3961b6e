-- Alerts ask every two seconds which runs have failed: of jobs that run every few seconds these are few among many.
create index job_runs_failed on audit.job_runs (job, finished_at) where state = 'failed';
