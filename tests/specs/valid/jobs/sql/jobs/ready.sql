select count(*) > 0 from cleansed.users
