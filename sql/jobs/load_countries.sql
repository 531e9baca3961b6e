-- The countries of ISO 3166-1 by their two letters, with their continent: what the region of dim_users is looked up
-- in. Running it again changes nothing; rows of others stay.
create schema if not exists ref;
create table if not exists ref.countries (
    country varchar(100) primary key,
    region  varchar(100) not null
);
insert into ref.countries as c (country, region)
select letters, region
  from (values
    ('Africa', 'AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW
                MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW'),
    ('Antarctica', 'AQ BV GS HM TF'),
    ('Asia', 'AE AF AM AZ BD BH BN BT CC CN CX CY GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO
              MV MY NP OM PH PK PS QA SA SG SY TH TJ TL TM TR TW UZ VN YE'),
    ('Europe', 'AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD
                ME MK MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA'),
    ('North America', 'AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA
                       PM PR SV SX TC TT US VC VG VI'),
    ('Oceania', 'AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TO TV UM VU WF WS'),
    ('South America', 'AR BO BR CL CO EC FK GF GY PE PY SR UY VE')) continents (region, countries)
 cross join regexp_split_to_table(countries, '\s+') letters
    on conflict (country) do update
   set region = excluded.region
 where c.region is distinct from excluded.region;
