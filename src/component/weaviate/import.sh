jq -r 'def refers: .dataType[0] | test("^[A-Z]"); def has_both: (.vectorConfig // {}) != {} and .vectorIndexType != null;
  (.classes[].definition | .properties |= map(select(refers | not)) | if .multiTenancyConfig.enabled then del(.shardingConfig) else . end
    | "POST schema \(if has_both then del(.vectorConfig) else . end | tojson)", (select(has_both) | "PUT schema/\(.class) \(tojson)")),
  (.classes[].definition | .class as $class | .properties[] | select(refers) | "POST schema/\($class)/properties \(tojson)"),
  (.classes | to_entries[] | select(.value.tenants) | "POST schema/\(.key)/tenants \(.value.tenants | tojson)"),
  (.aliases // {} | to_entries[] | "POST aliases \({alias: .key, class: .value} | tojson)")' weaviate.json |
  while read -r method path body; do printf %s "$body" | curl -sS --fail-with-body -X "$method" "$WEAVIATE_URL/v1/$path" -H 'Content-Type: application/json' -d @-; echo; done
refers='def refers: (.value | type) == "array" and (.value[0] | type) == "object" and (.value[0] | has("beacon"));'
zstd -dc export/*/*.zst | jq -c "$refers"' .properties |= ((. // {}) | with_entries(select(refers | not)))' |
  split -l 200 --filter='jq -cs "{objects: .}" | curl -sS "$WEAVIATE_URL/v1/batch/objects" -H "Content-Type: application/json" -d @- | jq -c ".[].result | select(.errors)"'
zstd -dc export/*/*.zst | jq -c "$refers"' . as $object | .properties // {} | to_entries[] | select(refers) | .key as $property | .value[]
    | {from: "weaviate://localhost/\($object.class)/\($object.id)/\($property)", to: .beacon, tenant: $object.tenant}' |
  split -l 200 --filter='jq -cs . | curl -sS "$WEAVIATE_URL/v1/batch/references" -H "Content-Type: application/json" -d @- | jq -c ".[].result | select(.errors)"'
