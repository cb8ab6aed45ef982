// Custom-resources answers what an API server would say of objects by their CustomResourceDefinition: the schema, its
// CEL rules and defaults, fields that it does not know (tests/cluster/test_nvidia_admission.py).
//
// Each line of the standard input is a question in JSON: `definition`, the path of a definition in YAML; `object`; and
// `old`, which `object` is to replace, none where it is created. `status` says that its status alone is written. Each
// line of the standard output is the answer: why it is refused, [] where it is not. A definition that is itself refused
// ends the program.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	definitions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	metadata "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type question struct {
	Definition string         `json:"definition"`
	Object     map[string]any `json:"object"`
	Old        map[string]any `json:"old"`
	Status     bool           `json:"status"`
}

// What a version of a definition asks of objects.
type version struct {
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator
	namespaced bool
	status     bool // it is written by itself
}

// By apiVersion and kind.
type kinds map[[2]string]version

func read(path string) (kinds, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var said apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(content, &said); err != nil {
		return nil, err
	}
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(&said)
	var all apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&said, &all, nil); err != nil {
		return nil, err
	}
	all.Status.StoredVersions = []string{}
	for _, each := range said.Spec.Versions {
		if each.Storage {
			all.Status.StoredVersions = append(all.Status.StoredVersions, each.Name)
		}
	}
	if errs := definitions.ValidateCustomResourceDefinition(context.Background(), &all); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	found := kinds{}
	for _, each := range said.Spec.Versions {
		var internal apiextensions.CustomResourceValidation
		if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(each.Schema, &internal, nil); err != nil {
			return nil, err
		}
		structural, err := schema.NewStructural(internal.OpenAPIV3Schema)
		if err != nil {
			return nil, err
		}
		validator, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
		if err != nil {
			return nil, err
		}
		found[[2]string{said.Spec.Group + "/" + each.Name, said.Spec.Names.Kind}] = version{
			structural: structural,
			validator:  validator,
			rules:      cel.NewValidator(structural, true, celconfig.PerCallLimit),
			namespaced: said.Spec.Scope == apiextensionsv1.NamespaceScoped,
			status:     each.Subresources != nil && each.Subresources.Status != nil,
		}
	}
	return found, nil
}

// What is stored of an object, and the fields of it that nobody knows.
func (v version) stored(object map[string]any) []string {
	unknown := pruning.PruneWithOptions(object, v.structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	defaulting.PruneNonNullableNullsWithoutDefaults(object, v.structural)
	defaulting.Default(object, v.structural)
	return unknown
}

func replaced(object, other map[string]any, name string) {
	delete(object, name)
	if value, has := other[name]; has {
		object[name] = value
	}
}

func (v version) refusals(ctx context.Context, asked question) []string {
	why := []string{}
	if asked.Old != nil {
		v.stored(asked.Old)
		if asked.Status {
			whole := runtime.DeepCopyJSON(asked.Old)
			replaced(whole, asked.Object, "status")
			asked.Object = whole
		} else if v.status {
			replaced(asked.Object, asked.Old, "status")
		}
	} else if v.status {
		delete(asked.Object, "status")
	}
	for _, unknown := range v.stored(asked.Object) {
		why = append(why, "unknown field "+unknown)
	}
	u := &unstructured.Unstructured{Object: asked.Object}
	errs := metadata.ValidateObjectMetaAccessor(u, v.namespaced, metadata.NameIsDNSSubdomain, field.NewPath("metadata"))
	if asked.Old == nil {
		errs = append(errs, validation.ValidateCustomResource(nil, asked.Object, v.validator)...)
	} else {
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, asked.Object, asked.Old, v.validator)...)
	}
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, v.structural, asked.Object)...)
	if v.rules != nil && len(errs) == 0 {
		var old any
		if asked.Old != nil {
			old = asked.Old
		}
		broken, _ := v.rules.Validate(ctx, nil, v.structural, asked.Object, old, celconfig.RuntimeCELCostBudget)
		errs = append(errs, broken...)
	}
	for _, err := range errs {
		why = append(why, err.Error())
	}
	return why
}

func run() error {
	known := map[string]kinds{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		if _, has := known[asked.Definition]; !has {
			found, err := read(asked.Definition)
			if err != nil {
				return fmt.Errorf("%s: %w", asked.Definition, err)
			}
			known[asked.Definition] = found
		}
		u := unstructured.Unstructured{Object: asked.Object}
		why := []string{fmt.Sprintf("no kind %s of %s", u.GetKind(), u.GetAPIVersion())}
		if v, has := known[asked.Definition][[2]string{u.GetAPIVersion(), u.GetKind()}]; has {
			why = v.refusals(context.Background(), asked)
		}
		if err := json.NewEncoder(os.Stdout).Encode(why); err != nil {
			return err
		}
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
