{{/*
The manifests under kube/ are the one source: this chart reads them, and changes what a kustomization would.
*/}}

{{- define "ray-dra.namespaces" -}}
{{- toYaml (.Values.namespaces | default (list .Release.Namespace)) -}}
{{- end -}}

{{- define "ray-dra.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Arguments: the root, a glob of files, a namespace. All objects in them, in this namespace. */}}
{{- define "ray-dra.objects" -}}
{{- $root := index . 0 -}}
{{- $namespace := index . 2 -}}
{{- range $path, $_ := $root.Files.Glob (index . 1) }}
{{- if ne (base $path) "kustomization.yaml" }}
{{- range $text := regexSplit "(?m)^---\\s*$" ($root.Files.Get $path) -1 }}
{{- $thing := fromYaml $text }}
{{- if $thing.kind }}
---
{{ include "ray-dra.adapted" (list $root $thing $namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Arguments: the root, an object, a namespace. */}}
{{- define "ray-dra.adapted" -}}
{{- $root := index . 0 -}}
{{- $thing := index . 1 -}}
{{- $namespace := index . 2 -}}
{{- $meta := $thing.metadata -}}
{{- $everywhere := list "ClusterRole" "ClusterRoleBinding" "ValidatingAdmissionPolicy" "ValidatingAdmissionPolicyBinding" "CustomResourceDefinition" -}}
{{- if has $thing.kind $everywhere -}}
{{- $_ := set $meta "name" (regexReplaceAll "[.]namespace$" $meta.name (printf ".%s" $namespace)) -}}
{{- else -}}
{{- $_ := set $meta "namespace" $namespace -}}
{{- end -}}
{{- if eq $thing.kind "ValidatingAdmissionPolicyBinding" -}}
{{- $_ := set $thing.spec "policyName" (regexReplaceAll "[.]namespace$" $thing.spec.policyName (printf ".%s" $namespace)) -}}
{{- end -}}
{{- range $subject := $thing.subjects -}}
{{- $_ := set $subject "namespace" $namespace -}}
{{- end -}}
{{- if and $root.Values.allAccounts (eq $thing.kind "ClusterRoleBinding") (not (contains ":shapes:" $meta.name)) (ne $meta.name "ray-dra-drains") -}}
{{- $all := dict "apiGroup" "rbac.authorization.k8s.io" "kind" "Group" "name" "system:serviceaccounts" -}}
{{- $_ := set $thing "subjects" (list $all) -}}
{{- end -}}
{{- if and $root.Values.rayCluster (eq $thing.kind "Role") (eq $meta.name "ray-dra") -}}
{{- $rules := list -}}
{{- range $rule := $thing.rules -}}
{{- if has "rayclusters" $rule.resources -}}
{{- $_ := set $rule "resourceNames" (list $root.Values.rayCluster) -}}
{{- end -}}
{{- if not (has "rayservices" $rule.resources) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- $_ := set $thing "rules" $rules -}}
{{- end -}}
{{- if eq $thing.kind "DaemonSet" -}}
{{- $_ := set $thing.spec.template.spec "nodeSelector" $root.Values.topologyAgent.nodeSelector -}}
{{- end -}}
{{- $port := int $root.Values.topologyAgent.metricsPort -}}
{{- if and $port (eq $meta.name "ray-dra-topology") -}}
{{- if eq $thing.kind "DaemonSet" -}}
{{- $container := first $thing.spec.template.spec.containers -}}
{{- $_ := set $container "env" (append $container.env (dict "name" "RAY_DRA_METRICS_PORT" "value" (toString $port))) -}}
{{- $_ := set $container "ports" (list (dict "name" "metrics" "containerPort" $port)) -}}
{{- else if eq $thing.kind "NetworkPolicy" -}}
{{- $_ := set $thing.spec "ingress" (list (dict "ports" (list (dict "port" "metrics" "protocol" "TCP")))) -}}
{{- end -}}
{{- end -}}
{{- if hasPrefix "monitoring.coreos.com/" $thing.apiVersion -}}
{{- $_ := set $meta "labels" (merge (dict) ($root.Values.monitoring.labels | default dict) $meta.labels) -}}
{{- end -}}
{{- $text := toYaml $thing -}}
{{- /* A value of its own is quoted: a namespace may be called 1234, or true. */ -}}
{{- $text = regexReplaceAll ": NAMESPACE\\b" $text (printf ": %q" $namespace) -}}
{{- $text = regexReplaceAll "\\bNAMESPACE\\b" $text $namespace -}}
{{- $text = regexReplaceAll "image: localhost/ray-dra\\b" $text (printf "image: %s" (include "ray-dra.image" $root)) -}}
{{- $text = regexReplaceAll "imagePullPolicy: IfNotPresent\\b" $text (printf "imagePullPolicy: %s" $root.Values.image.pullPolicy) -}}
{{- $text -}}
{{- end -}}
