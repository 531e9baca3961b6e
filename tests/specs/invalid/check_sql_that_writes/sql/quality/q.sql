-- x
delete from cleansed.users
