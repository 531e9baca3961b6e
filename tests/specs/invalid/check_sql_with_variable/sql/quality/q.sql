select user_id from cleansed.users
 where joined < :'ds'
