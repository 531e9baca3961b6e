-- The source's tables, as they stand at the end, in the schema that mirrors them.
create schema cleansed;
CREATE TYPE cleansed.order_status AS ENUM (
    'new',
    'paid',
    'shipped',
    'cancelled'
);
CREATE TABLE cleansed.all_types (
    id integer NOT NULL,
    c_smallint smallint,
    c_int integer,
    c_bigint bigint,
    c_num numeric,
    c_num_10_2 numeric(10,2),
    c_real real,
    c_double double precision,
    c_bool boolean,
    c_text text,
    c_varchar character varying(50),
    c_char character(10),
    c_bytea bytea,
    c_date date,
    c_time time without time zone,
    c_timetz time with time zone,
    c_ts timestamp without time zone,
    c_ts3 timestamp(3) without time zone,
    c_tstz timestamp with time zone,
    c_interval interval,
    c_uuid uuid,
    c_json json,
    c_jsonb jsonb,
    c_inet inet,
    c_cidr cidr,
    c_macaddr macaddr,
    c_int_arr integer[],
    c_text_arr text[],
    c_hstore public.hstore,
    c_citext public.citext,
    c_int4range int4range,
    c_tstzrange tstzrange,
    c_enum cleansed.order_status,
    c_money money,
    c_bit bit(8),
    c_varbit bit varying(20)
);
CREATE TABLE cleansed.audit_log (
    at timestamp with time zone,
    who text,
    what text
);
CREATE TABLE cleansed.customers (
    id integer NOT NULL,
    email text NOT NULL,
    full_name character varying(100),
    created_at timestamp with time zone DEFAULT '2024-01-01 00:00:00+00'::timestamp with time zone,
    balance numeric(12,2) DEFAULT 0,
    is_active boolean DEFAULT true,
    prefs jsonb,
    tier text
);
CREATE TABLE cleansed.debezium_signal (
    id character varying(64) NOT NULL,
    type character varying(32) NOT NULL,
    data character varying(2048)
);
CREATE TABLE cleansed.documents (
    id uuid NOT NULL,
    title text,
    version integer,
    body text,
    meta jsonb
);
ALTER TABLE ONLY cleansed.documents ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE cleansed.order_lines (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    sku text,
    qty integer,
    price numeric(10,4)
);
CREATE TABLE cleansed.orders (
    order_id bigint NOT NULL,
    customer_id integer NOT NULL,
    status cleansed.order_status DEFAULT 'new'::cleansed.order_status NOT NULL,
    total numeric(14,4),
    placed_at timestamp with time zone,
    notes text
);
CREATE TABLE cleansed.page_views (
    ts timestamp with time zone,
    url text,
    ms integer
);
CREATE TABLE cleansed.stock (
    sku text NOT NULL,
    qty integer,
    updated_at timestamp without time zone
);
CREATE TABLE cleansed.zz_sentinel (
    id integer NOT NULL,
    note text
);
ALTER TABLE ONLY cleansed.all_types
    ADD CONSTRAINT all_types_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cleansed.customers
    ADD CONSTRAINT customers_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cleansed.debezium_signal
    ADD CONSTRAINT debezium_signal_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cleansed.documents
    ADD CONSTRAINT documents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cleansed.order_lines
    ADD CONSTRAINT order_lines_pkey PRIMARY KEY (order_id, line_no);
ALTER TABLE ONLY cleansed.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (order_id);
ALTER TABLE ONLY cleansed.stock
    ADD CONSTRAINT stock_pkey PRIMARY KEY (sku);
ALTER TABLE ONLY cleansed.zz_sentinel
    ADD CONSTRAINT zz_sentinel_pkey PRIMARY KEY (id);
