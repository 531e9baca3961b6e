-- users of whom nobody knows where they live
select user_id
  from cleansed.dim_users
 where is_current and country is null;
