"""What is written of an explanation: pictures, arrays, COCO boxes, the manifest."""
